"""The reference pages that are generated: the settings, their schema, and what runs again."""
