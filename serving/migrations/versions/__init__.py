"""One file a revision, in order. A published revision is never edited: a change is a new one."""
