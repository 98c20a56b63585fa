"""An adapter at work outside Yoriai: exported for other programs, judged against its model, and run by llama.cpp."""
