"""Who is who: keys, certificates, what is signed with them, and the roster of a federation."""
