"""Shows the results of the long studies: campaigns, ablations, ladders. May import every package except cli."""
