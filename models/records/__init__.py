"""The results database: mapped classes, sessions and the ledger of instances."""
