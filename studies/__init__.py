"""One short file a study; each exposes STUDY. `moe-study list` shows them."""
