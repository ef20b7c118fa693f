"""Pictures of our pages for the documents."""
