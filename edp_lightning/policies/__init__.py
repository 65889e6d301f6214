"""How an action is drawn and chosen."""
