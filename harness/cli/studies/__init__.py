"""Commands of the long studies in lab/studies: each module holds the options and the output of one."""
