"""The small text encoder: BERT's tokens, read out as their mean."""

import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from sfumato.models.modeling_sfumato_words import WordsConfig, WordsModel

SMALL = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 8, "type_vocab_size": 1,
}  # fmt: skip


def test_it_is_bert_and_the_mean_of_the_texts_own_tokens() -> None:
    torch.manual_seed(0)
    words = WordsModel(WordsConfig(**SMALL)).eval()
    bert = BertModel(BertConfig(**SMALL), add_pooling_layer=False).eval()
    bert.load_state_dict(words.state_dict())
    ids = torch.tensor([[2, 5, 6, 3, 0], [2, 7, 3, 0, 0], [0, 0, 0, 0, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        out = words(input_ids=ids, attention_mask=mask)
        tokens = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        everything = words(input_ids=ids)
    torch.testing.assert_close(out.last_hidden_state[:2], tokens[:2])
    torch.testing.assert_close(out.pooler_output[0], tokens[0, :4].mean(0))
    torch.testing.assert_close(out.pooler_output[1], tokens[1, :3].mean(0))
    assert out.pooler_output[2].abs().max() == 0
    torch.testing.assert_close(everything.pooler_output, everything.last_hidden_state.mean(1))


def test_transformers_knows_it_by_name(tmp_path) -> None:
    words = WordsModel(WordsConfig(**SMALL)).eval()
    words.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), WordsConfig)
    read = AutoModel.from_pretrained(tmp_path)
    assert isinstance(read, WordsModel)
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in words.state_dict().items())
