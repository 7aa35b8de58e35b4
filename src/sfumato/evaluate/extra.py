"""The one place where scikit-learn is imported: it is an extra, needed by probes and by the question-only baseline."""

from types import ModuleType

from sfumato.base import BadInput


def sklearn_part(name: str) -> ModuleType:
    """Return the module `sklearn.<name>`.

    Raises:
        BadInput: scikit-learn is not installed; the message says what to type.
    """
    import importlib

    try:
        return importlib.import_module(f"sklearn.{name}")
    except ModuleNotFoundError as error:
        raise BadInput(
            "probes and the question-only baseline need scikit-learn: pip install 'sfumato[eval]'."
        ) from error
