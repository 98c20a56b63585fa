"""Commands of a site about the adapters and versions that it has: pulled, asked, evaluated, exported, served."""
