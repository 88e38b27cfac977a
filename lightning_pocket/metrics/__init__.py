"""How good predictions are."""

from .dice import CaseDice, Dice, dice_per_class

__all__ = ["CaseDice", "Dice", "dice_per_class"]
