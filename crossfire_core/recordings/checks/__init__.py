"""What can be wrong with a recording, one file a kind; ``recordings.check`` puts them together.

The limits in these files are no settings: a word such as "blurred" must mean the same in every
report. They are measured on recordings that made good maps, and on copies that were broken.
"""
