"""`yoriai site check`: what must hold for a site to work, each with its remedy."""
