"""Commands for the long studies in lab/studies. Each module holds the options and the output of one study."""
