"""What a ledger charges, under the name that training knows it by: `sfumato.plan.spent`, which imports no torch."""

from sfumato.plan.spent import DECLARED, EXACT, QUICK, Spent, explained, plan_of, spent

__all__ = ["DECLARED", "EXACT", "QUICK", "Spent", "explained", "plan_of", "spent"]
