"""Figures: runs, the two-step task, t-SNE of datasets, calibration of Q.

Matplotlib and scikit-learn come with the extra ``plot``.
"""
