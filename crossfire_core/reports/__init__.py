"""Pages, plots and pictures for evaluations, checks and replays alike."""
