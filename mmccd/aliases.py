"""Names and options that changed after version 0.1.0: they work, with a warning, until 0.3.0. The only list of them."""

import importlib
import warnings
from collections.abc import Callable

# old module -> new module -> names, separated by spaces; OLD=NEW where the name changed too
MOVED: dict[str, dict[str, str]] = {
    "baselines": {
        "baselines": (
            "BRIDGES=WITH_SKIPS NO_BRIDGES=WITHOUT_SKIPS divergence=kl_divergence one_each=draw_modalities "
            "way=scale_blocks"
        ),
        "partial_diffusion": "DDPM DDPMConfig NOISES simplex_noise simplex_octave",
    },
    "benchmark": {
        "benchmark.dataset": (
            "Judged=EvaluationSet Subject=ScoredSubject calibration_slices judging=load_evaluation_set "
            "kind_of=subject_kind learning=load_training_data make_stores places=store_paths "
            "subject=load_subject who=subject_split"
        ),
        "benchmark.figures": (
            "colour_of=method_colour cost_figure maps_figure recall_figure shown=drawn_entries size_figure"
        ),
        "benchmark.measure": (
            "AT_ORACLE RECALLS SHOWN counting=count_evaluations maps=anomaly_maps pictured precision_at "
            "score_entry score_kind"
        ),
        "benchmark.networks": "Entry detector_of=load_entry entries run_folder train_method untrained",
        "benchmark.plan": (
            "FOLDED LEVEL=UNTIL_LEVEL SPLITS Scans=ScanSource USUAL=DEFAULT_ROWS WAYS=PAIRS rule=stopping_rule "
            "settle=write_or_check_plan"
        ),
        "benchmark.result": (
            "PROTOCOL curve_of=read_curve network=describe_network paired=compare_rows whole_result=collect_result"
        ),
        "benchmark.run": "FILES check_all=check_data check_scans plan_text=describe_plan write_all=write_files",
        "benchmark.schedule": (
            "Display=ProgressDisplay Task in_turn=run_in_turn tasks_of=list_tasks told=task_summary work_off=run_tasks"
        ),
        "benchmark.tables": "SOURCE TUMOURS caption cell first_kind of_pair=entries_of",
        "files": "dump=to_json tidy=round_floats",
    },
    "cli": {
        "cases.phantoms": "make_subjects",
        "cli.app": "arguments show_version",
        "cli.detect": "own_modality=infer_modality pick_detector tell=print_cases",
        "cli.explore": "asked_view=view_fields explored=open_explorer explorer_weights",
        "cli.options": "Device Input Json Seed check_json listed=parse_list put_json slice_range",
        "cli.prepare": "tell_store=print_store",
        "explorer.saving": "SAVED save_view",
        "explorer.server": (
            "APPS=SERVERS PAGES UPLOAD=MAX_UPLOAD answers=is_listening check_app=check_server explorer_notebook "
            "running server_folder=prepare_folder server_line=server_command"
        ),
        "registry": "full_name=packaged_name",
        "runtime": "like_ctrl_c=sigterm_as_interrupt pick_device say",
    },
    "data": {
        "cases.brain": "box_of brain_mask fill_slices least_signal",
        "cases.case": "Case read_case",
        "cases.grid": "GEOMETRY Grid check_same_grid",
        "cases.filenames": "NAMES NIFTI OTHER=OTHER_IMAGES",
        "cases.names": (
            "RESULT case_files case_id choose_files common_name expand_cases find_cases "
            "nifti_files no_images=no_images_error one_modality split_ending split_name "
            "two_claims=ambiguous_modality_error"
        ),
        "cases.nifti": "as_stored read_labels read_volume write_nifti",
        "errors": "bad_file=file_error plain=format_error printable=display_name",
        "slices": "SLICE_RANGE to_slices to_volume",
    },
    "detect": {
        "cases.grid": "protocol_slices volume_ml voxel_size",
        "detection.calibration": "recalibrate stored_post=stored_postprocessing threshold_note",
        "detection.detect": ("check_place describe_run detect_case detect_many"),
        "detection.evaluation": (
            "ALARMS case_shapes evaluate false_alarm pair_cases read_result result_ids score_found=summarise_scores"
        ),
        "detection.maps": "anomaly_volume map_slices",
        "detection.report": "Detection report_figure result_files telling_slices=representative_slices",
        "detection.score_text": "alarm_text score_tables score_text",
        "files": "output_folder writing",
        "tables": "align=align_table",
    },
    "detector": {
        "files": "write_atomic",
        "weights.hub": "WEIGHTS packaged",
        "weights.storage": "tensor_file",
    },
    "diffusion": {
        "diffusion": "at=extract signal_left=alphas_cumprod",
    },
    "explore": {
        "explorer.cache": "Kept=LRUCache",
        "explorer.canvas": (
            "FOOT=FOOTER GAP GREYS HEAD=HEADER HOT NOTE PAINTS=OVERLAYS PALETTE SHADES TITLE Tile draw "
            "draw_tile edge=inner_edge fitting=fit_text paint_over=overlay_colours palette=make_palette png_of "
            "pure put=paste put_bar=draw_bar shade word=text_image"
        ),
        "explorer.choose": "first_view fit_view=nearest_view",
        "explorer.controls": (
            "PLAYS=PLAY_BUTTONS devices=available_devices knob=make_widget limits=control_limits "
            "make_box=lay_out move=set_slider move_both=set_named_slider"
        ),
        "explorer.describe": (
            "describe error_words=error_text hidden_words=mask_text is_usual=is_calibrated_map "
            "lines_of=python_lines map_words=map_text score_words=score_text step_words=step_text"
        ),
        "explorer.explorer": "Explorer",
        "explorer.markup": "link=download_link",
        "explorer.networks": "masked_detector=load_masked_detector sampler_of=sampler_for",
        "explorer.panel": "Panel explore",
        "explorer.render": "map_scale tiles_of",
        "explorer.subjects": "Subject file_subject phantom_subject upload_subject",
        "explorer.view": "SWEEPS View cycle_key needed=required_cycles",
        "explorer.worker": (
            "Latest=NewestRequestWorker Stale=SupersededError Wish=RenderRequest wanted_by=is_still_needed"
        ),
        "runtime": "pick=pick_device",
    },
    "masked_diffusion": {
        "error_normalisation": "learn_usual=fit_healthy_mean usual_map=healthy_mean",
        "masked_diffusion": (
            "all_masks=masked_errors changed=with_config mmccd_loss=cycle_loss pooled_score=masked_anomaly_map "
            "take_back=load_frozen_decoder"
        ),
        "masked_translation": "Imaginer=MaskedTranslator imagination_loss=masked_translation_loss",
    },
    "masking": {
        "masking": "sizes=width_and_step spread=std_over_masks tile_masks=disjoint_masks",
    },
    "phantom": {
        "anatomy": (
            "Deformation ORIGIN WARPS jacobian load_atlas look_up sample_deformation smooth_noise spline_matrix "
            "template_grid tissue_fractions"
        ),
        "cases.phantoms": "save_nifti write_case write_phantom",
        "lesions": (
            "LESIONS Lesion glioma glioma_core infarct mass_effect ms_plaques near_ventricles pick_centre sigmoid"
        ),
        "scanner": "RELAXATION SPREAD UPTAKE mr_signal null_time sample_acquisition sample_relaxation",
    },
    "protocols": {
        "protocols": (
            "at_size=resize_for_scoring average=average_scores judged=scored_region overlap=overlap_scores "
            "scale_together=min_max_scale"
        ),
    },
    "scoring": {
        "summary": (
            "COLUMNS MORE SHAPES SIZES best_threshold bootstrap_interval by_size dice_steps everything_positive "
            "false_area format_table paired_bootstrap score_one score_shapes score_subjects summarise"
        ),
    },
    "slices": {
        "cases.subjects": "part_size read_list split_from_lists split_subjects subject_of",
    },
    "store": {
        "cases.phantoms": "Phantoms write_case",
        "cases.prepare": (
            "LARGEST case_arrays load_source make_recipe plan prepare prepare_one run_tasks "
            "scaled_slices=normalised_slices store_group workers=count_processes"
        ),
        "cases.records": "FORMAT is_url open_place plain_errors=store_errors read_records read_store",
        "cases.resume": "check_recipe first_modalities source_files unfinished",
        "cases.store": "IN_MEMORY Row SliceDataset SliceStore describe_slices undamaged",
        "runtime": "one_thread=single_thread",
    },
    "training": {
        "files": "alone=folder_lock write_durably",
        "registry": "new_detector",
        "runtime": "counted duration kept_random_state seed_of=derive_seed spread=evenly_spaced",
        "training.callback": "Keeper=TrainingCallback",
        "training.card": "CARD",
        "training.checkpoint": (
            "Sealed=ChecksummedCheckpointIO checkpoints keep_newest=remove_older newest_good=newest_intact "
            "saving=explained_write_errors"
        ),
        "training.data": "check_healthy",
        "training.fit": "Fit=DetectorModule diverged make_trainer quiet=quiet_lightning",
        "training.log": "COLUMNS curve_figure log_text sample_figure save_sample",
        "training.progress": "Progress",
        "training.record": (
            "RESULT=RESULT_FILES about_run=describe_run data_record open_run read_record read_run write_record"
        ),
        "training.run": "check_training finish opening=opening_lines run_fit",
        "training_loop": (
            "Batches OPTIONS PRECISIONS ToyCycle ToyCycleConfig batch_indices converged describe_data "
            "ema_average lr_factor mean_inside=masked_mean shuffled small_net validate without_labels"
        ),
    },
    "translate": {
        "translate": "failure_map=squared_error_map paint=fill_background",
    },
}

RENAMED_OPTIONS = {"train": {"--back": "--decoder"}}  # by command of `mmccd`

GONE_IN = "0.3.0"


def moved_names(module: str) -> dict[str, tuple[str, str]]:
    """Every old name of `module` ("mmccd.data") with its new module and name."""
    found = {}
    for place, words in MOVED.get(module.removeprefix("mmccd."), {}).items():
        for word in words.split():
            old, _, new = word.partition("=")
            found[old] = (f"mmccd.{place}", new or old)
    return found


def old_names(module: str, depth: int = 0) -> Callable[[str], object]:
    """A `__getattr__` for `module` that finds what moved away and warns about it.

    Args:
        module: Its name.
        depth: How many functions stand between Python and this `__getattr__`, so that the warning names the right line.

    Raises:
        AttributeError: for a name that the module never had.
    """
    names = moved_names(module)

    def find(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, new = names[name]
        warnings.warn(
            f"{module}.{name} is now {place}.{new}; the old name goes in mmccd {GONE_IN}",
            FutureWarning,
            stacklevel=2 + depth,
        )
        return getattr(importlib.import_module(place), new)

    return find
