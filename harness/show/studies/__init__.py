"""Shows the results of the long studies: campaigns, ablations, ladders. May import what show imports."""
