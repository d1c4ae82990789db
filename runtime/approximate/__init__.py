"""Approximate heatmaps: Krypton's methods, and refinement until a promise holds."""
