"""The live status page: rendered here, kept fresh by thirty lines of script; nothing comes from elsewhere."""
