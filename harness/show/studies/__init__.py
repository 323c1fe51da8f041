"""What a person sees of the long studies: campaigns, ablations, ladders. Imports what its neighbours do."""
