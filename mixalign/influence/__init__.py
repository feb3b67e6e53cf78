"""Influence of tasks on target rows (IDEAL): curvature factors, their inverse, benefit and its uncertainty."""
