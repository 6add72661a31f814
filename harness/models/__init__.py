"""Stage two: a request goes in, a response comes out. Knows nothing of cases or rubrics."""
