"""Measuring how well localization works: errors, peers on the same frames, reports."""
