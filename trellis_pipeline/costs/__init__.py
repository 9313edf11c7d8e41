"""Money: what a generation may cost, what is set aside for it, what it did cost. Knows no generator.

Start at `ledger.Ledger`; `money`, `budgets` and `price_book` are plain data and import no database.
"""
