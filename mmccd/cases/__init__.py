"""Cases: a patient's NIfTI files on one grid, phantoms in the same layout, and stores of slices for training."""
