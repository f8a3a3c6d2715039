"""Structure from motion with pycolmap, which is imported when it is needed.

Only the incremental mapper and the test of a pair's geometry are COLMAP's; which images, which
pairs and which calibration is decided here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import SfmConfig
from crossfire_core.errors import CalibrationError, TrainingError, optional
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.colmap import camera_of
from crossfire_core.vision.local_features import LocalFeatures, match
from crossfire_core.vision.sparse_points import SparsePoints

FloatArray = NDArray[np.float64]
Tell = Callable[[int, int], None]
_BATCH = 25  # pairs between two reports, a second or two
_LEAST_IMAGES = 3  # two fix no scale between them
_TRIALS = 2000
_LEAST_SINE = np.sin(np.radians(1.0))  # an angle below which depth is noise
_WORST_PX = 2.0  # points off by more take no part


@dataclass(frozen=True)
class Reconstruction:
    """What structure from motion found, in a frame and a scale of its own.

    Attributes:
        poses: ``sfm_from_camera`` by number of the image.
        cameras: refined calibration by the recorded one.
        points: what the images have in common, and where in them.
        mean_error_px: mean reprojection error.
        models: number of images of every model, the largest (this one) first.
    """

    poses: dict[int, Pose]
    cameras: dict[Camera, Camera]
    points: SparsePoints
    mean_error_px: float
    models: tuple[int, ...]


def load_pycolmap() -> Any:
    """The optional package; raises as :func:`.optional`."""
    pycolmap = optional(
        "pycolmap",
        "structure from motion needs pycolmap: pip install '.[sfm]' in the clone, "
        "or use --poses odometry",
    )
    # its progress goes to stderr line by line, ours is a bar; problems still come through
    pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value
    return pycolmap


def colmap_parameters(camera: Camera) -> tuple[str, list[float]]:
    """A camera as COLMAP's model name and parameters; the inverse of the COLMAP reader's."""
    c = camera
    k = [*c.coefficients, *[0.0] * (8 - len(c.coefficients))]
    pinhole = [c.fx, c.fy, c.cx, c.cy]
    if c.distortion == "none":
        return "PINHOLE", pinhole
    if c.distortion == "equidistant":
        return "OPENCV_FISHEYE", [*pinhole, *k[:4]]
    if c.distortion == "fov":
        return "FOV", [*pinhole, k[0]]
    if not c.is_flat or any(k[8:]):
        name = f"{c.distortion} with {len(c.coefficients)} coefficients"
        raise CalibrationError(
            f"COLMAP has no lens model {name}: use --poses odometry, or calibrate the camera as "
            f"{'rational with 8' if c.is_flat else 'equidistant'}"
        )
    if c.distortion == "radtan" and k[4] == 0.0:
        return "OPENCV", [*pinhole, *k[:4]]
    return "FULL_OPENCV", [*pinhole, *k[:8]]


class MatchStore:
    """COLMAP's database of images, keypoints and verified matches; it survives a stop."""

    def __init__(self, path: Path, cameras: Sequence[Camera], seed: int) -> None:
        """Open or make it.

        Args:
            path: the database file.
            cameras: calibration of every image, by its number.
            seed: of the geometric test.
        """
        self.path, self.cameras, self.seed = path, cameras, seed
        self.pycolmap = load_pycolmap()
        self.distinct = list(dict.fromkeys(cameras))

    def add_images(self, features: Sequence[LocalFeatures]) -> None:
        """Write all images with their keypoints, unless they are there already."""
        with self.pycolmap.Database.open(self.path) as db:
            if db.num_images() == len(features):
                return
            db.clear_all_tables()
            with self.pycolmap.DatabaseTransaction(db):
                rigs = [self._add_camera(db, camera) for camera in self.distinct]
                for number, each in enumerate(features):
                    which = self.distinct.index(self.cameras[number])
                    self._add_image(db, number, which + 1, rigs[which])
                    db.write_keypoints(number + 1, each.pixels)

    def add_matches(
        self, features: Sequence[LocalFeatures], pairs: Sequence[tuple[int, int]], tell: Tell
    ) -> None:
        """Match the pairs that are not yet in the store, and test each one's geometry."""
        with self.pycolmap.Database.open(self.path) as db:
            missing = [(i, j) for i, j in pairs if not db.exists_matches(i + 1, j + 1)]
            done = len(pairs) - len(missing)
            for start in range(0, len(missing), _BATCH):
                with self.pycolmap.DatabaseTransaction(db):
                    for i, j in missing[start : start + _BATCH]:
                        self._match(db, features, i, j)
                        done += 1
                        tell(done, len(pairs))

    def _add_camera(self, db: Any, camera: Camera) -> int:
        model, parameters = colmap_parameters(camera)
        row = self.pycolmap.Camera(
            model=model, width=camera.width, height=camera.height, params=parameters
        )
        row.has_prior_focal_length = True
        row.camera_id = db.write_camera(row)
        rig = self.pycolmap.Rig()
        rig.add_ref_sensor(row.sensor_id)
        return int(db.write_rig(rig))

    def _add_image(self, db: Any, number: int, camera_id: int, rig_id: int) -> None:
        image = self.pycolmap.Image(name=f"{number:06d}", camera_id=camera_id, image_id=number + 1)
        db.write_image(image, use_image_id=True)
        frame = self.pycolmap.Frame()
        frame.rig_id = rig_id
        frame.add_data_id(image.data_id)
        db.write_frame(frame)

    def _match(self, db: Any, features: Sequence[LocalFeatures], i: int, j: int) -> None:
        a, b = features[i], features[j]
        matches = match(a, b)
        db.write_matches(i + 1, j + 1, matches)
        if len(matches) < 15:
            return
        options = self.pycolmap.TwoViewGeometryOptions()
        options.ransac.random_seed = self.seed
        options.ransac.max_num_trials = _TRIALS  # pairs that need more are not worth it
        geometry = self.pycolmap.estimate_calibrated_two_view_geometry(
            self._camera(i), a.pixels.astype(np.float64), self._camera(j),
            b.pixels.astype(np.float64), matches, options,
        )  # fmt: skip
        db.write_two_view_geometry(i + 1, j + 1, geometry)

    def _camera(self, number: int) -> Any:
        camera = self.cameras[number]
        model, parameters = colmap_parameters(camera)
        return self.pycolmap.Camera(
            model=model, width=camera.width, height=camera.height, params=parameters
        )


def reconstruct(store: MatchStore, config: SfmConfig, seed: int, tell: Tell) -> Reconstruction:
    """Poses and points from the matches.

    Args:
        store: with the matches of all pairs.
        config: whether to refine the calibration.
        seed: of the mapper's random choices.
        tell: called with images placed and in all.

    Returns:
        The largest model.

    Raises:
        TrainingError: nothing could be reconstructed.
    """
    pycolmap, count = store.pycolmap, len(store.cameras)
    placed = 0

    def one_more() -> None:
        nonlocal placed
        placed = min(placed + 1, count)
        tell(placed, count)

    pycolmap.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        models = pycolmap.incremental_mapping(
            store.path, folder, folder, _mapper_options(pycolmap, config, seed),
            next_image_callback=one_more,
        )  # fmt: skip
    ranked = sorted(models.values(), key=lambda model: -int(model.num_reg_images()))
    if not ranked or ranked[0].num_reg_images() < _LEAST_IMAGES:
        raise TrainingError(
            "structure from motion found no place seen from several sides: "
            "run crossfire check, drive slower, or record poses"
        )
    sizes = tuple(int(model.num_reg_images()) for model in ranked)
    return _read(ranked[0], store, sizes)


def _mapper_options(pycolmap: Any, config: SfmConfig, seed: int) -> Any:
    options = pycolmap.IncrementalPipelineOptions()
    wanted = {
        "random_seed": seed,
        "extract_colors": False,
        "ba_refine_focal_length": config.refine_calibration,
        "ba_refine_extra_params": config.refine_calibration,
        "ba_refine_principal_point": False,
        # global adjustments take most of the time; a robot's path grows evenly
        "ba_global_frames_ratio": 1.3,
        "ba_global_points_ratio": 1.3,
        "ba_global_max_refinements": 2,
        "min_model_size": _LEAST_IMAGES,
        "max_num_models": 5,
        "init_num_trials": 50,
    }
    for name, value in wanted.items():
        if hasattr(options, name):  # some were renamed from version to version
            setattr(options, name, value)
    options.mapper.abs_pose_refine_focal_length = config.refine_calibration
    options.mapper.abs_pose_refine_extra_params = config.refine_calibration
    options.mapper.random_seed = seed
    options.triangulation.random_seed = seed
    return options


def _read(model: Any, store: MatchStore, sizes: tuple[int, ...]) -> Reconstruction:
    poses = {}
    for image_id in model.reg_image_ids():
        placed = model.image(image_id).cam_from_world()
        pose = Pose.from_matrix(np.asarray(placed.matrix()))
        poses[int(image_id) - 1] = pose.inverse()
    cameras = {
        recorded: camera_of(
            str(model.camera(number).model_name), *recorded.size,
            [float(v) for v in model.camera(number).params],
        )
        for number, recorded in enumerate(store.distinct, 1)
        if model.exists_camera(number)
    }  # fmt: skip
    unchanged = {a: a for a, b in cameras.items() if _parameters_equal(a, b)}
    points = _points(model, poses, store.cameras)
    error = float(model.compute_mean_reprojection_error())
    return Reconstruction(poses, {**cameras, **unchanged}, points, error, sizes)


def _parameters_equal(a: Camera, b: Camera) -> bool:
    return bool(np.allclose(colmap_parameters(a)[1], colmap_parameters(b)[1], rtol=1e-9))


def _points(model: Any, poses: Mapping[int, Pose], cameras: Sequence[Camera]) -> SparsePoints:
    """Observations of all good points, with the uncertainty that their parallax leaves."""
    frames, pixels, points, sigmas = [], [], [], []
    for point in model.points3D.values():
        if point.error > _WORST_PX:
            continue
        seen = [(e.image_id - 1, e.point2D_idx) for e in point.track.elements]
        offsets = point.xyz - np.stack([poses[i].translation for i, _ in seen])
        distance = np.linalg.norm(offsets, axis=1)
        rays = offsets / distance[:, None]
        cosine = np.clip(rays @ rays.T, -1.0, 1.0)
        sine = np.maximum(np.sqrt(1.0 - cosine.min(axis=1) ** 2), _LEAST_SINE)
        focal = np.array([cameras[i].fx for i, _ in seen])
        frames += [i for i, _ in seen]
        pixels += [model.image(i + 1).points2D[k].xy for i, k in seen]
        points += [point.xyz] * len(seen)
        sigmas.append(np.maximum(distance / (focal * sine), 0.005 * distance))
    if not frames:
        return SparsePoints.none()
    return SparsePoints(
        np.array(frames, np.int64), np.stack(pixels), np.stack(points), np.concatenate(sigmas)
    )
