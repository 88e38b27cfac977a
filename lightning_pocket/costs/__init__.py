"""What training and using networks costs: from configs to tables, on `pocket profile`'s behalf."""
