"""What a run is on disk: where its parts lie, and how they are opened and checked."""
