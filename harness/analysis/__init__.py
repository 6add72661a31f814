"""Stage four: from verdicts to a summary. Statistics only; nothing here prints or draws."""
