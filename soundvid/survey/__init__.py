"""A questionnaire: the page on which raters rate videos, and what their ratings say."""
