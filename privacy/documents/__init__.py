"""Pages about an adapter for those who answer for it: model card, privacy certificate, impact assessment."""
