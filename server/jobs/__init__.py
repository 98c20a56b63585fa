"""Jobs on a server, from submission to their versions: the queue, its store, how far each is, what follows each."""
