"""Write the small phantom case that lies in data/, to open in a viewer: python tools/sample_case.py

The first glioma of seed 0 that shows all three parts of a tumour in the slice with most lesion; 16 axial slices (70 to
85), so that the four modalities, the truth and the twin stay below 4 MB."""

from pathlib import Path

from mmccd.cases.phantoms import write_phantom
from mmccd.phantom import make_phantom

DATA = Path(__file__).parent.parent / "data"

if __name__ == "__main__":
    case = write_phantom(make_phantom("glioma", seed=0, index=3, slices=range(70, 86)), DATA, overwrite=True)
    files = sorted(case.rglob("*.nii.gz"))
    print(*(f"{f.stat().st_size / 1024:7.0f} KB  {f.relative_to(DATA)}" for f in files), sep="\n")
    print(f"{sum(f.stat().st_size for f in files) / 2**20:.2f} MB in all")
