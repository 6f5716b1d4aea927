"""For teachers: slides, exercise sheets and pages made from the lessons, and all in one folder without a network."""
