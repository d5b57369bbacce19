"""Tool calls in the words of models: one class a dialect, found in answers piece by piece, or demanded by grammars."""
