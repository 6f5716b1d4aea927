""""""


def store_data(
    store,  # path or URL of a store made by `prepare`
    input: str,  # modality
    target: str,  # modality; "" for what looks at one only
    val=0.1,  # share of the subjects to validate on, where there are no lists
    train_list=None,  # file with the names to learn from
    val_list=None,  # file with the names to validate on
    seed: int = 0,  # of the split
    modalities=(),  # which to load; (): input and target
) -> tuple:  # (data to learn from, data to validate on): healthy slices only
    "Two data sets without a subject in common."
    from mmccd.cases.store import SliceStore
    from mmccd.cases.subjects import split_from_lists, split_subjects
    from mmccd.errors import display_name

    if input == target:
        raise ValueError(f"input and target are both {input}: choose two modalities")
    if (train_list is None) != (val_list is None):
        raise ValueError("give both --train-list and --val-list, or neither")
    if train_list is None and not val:
        raise ValueError("--val must leave at least one subject to validate on")
    found = SliceStore(store)
    able = sorted({r.id for r in found.table if not r.lesion_cm2})  # where it is not known, `dataset` says so
    if not able:
        raise ValueError(
            f"there is no healthy slice in {display_name(store)}: all show lesion; prepare more cases, or wider --slices"
        )
    parts = (
        split_from_lists(found.ids, train=train_list, val=val_list)
        if train_list
        else split_subjects(able, val=val, seed=seed)
    )
    for name, what in (("train", "training"), ("val", "validation")):
        parts[name] = [i for i in parts[name] if i in able]
        if not parts[name]:
            raise ValueError(
                f"no subject for {what} has a healthy slice: choose a larger --val, another --seed, or other lists"
            )
    return tuple(
        found.dataset(parts[name], list(modalities) or [m for m in (input, target) if m], tumour_free=True)
        for name in ("train", "val")
    )
