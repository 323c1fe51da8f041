"""The long studies for people: campaigns, ablations, ladders. May import what show imports."""
