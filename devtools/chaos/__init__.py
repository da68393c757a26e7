"""The chaos suite: a secure installation of real processes under load, in which one part after another is made to fail."""
