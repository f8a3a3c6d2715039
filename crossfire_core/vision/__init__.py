"""Images compared with images: one front end for training, pose finding and checks."""
