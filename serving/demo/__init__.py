"""`gaugeway demo`: real flights of 2013 through two versions of a model, from training to a plain summary."""
