"""Scores of faces: pure functions of arrays, each with its definition, its ties and its degenerate cases.

Where the field disagrees about a definition, the one used here is written out, with its source (also in
`docs/metrics.md`). A value that is undefined on the given faces (a correlation with a constant, an AUC with one class)
is `nan`, never 0 or 1; wrong shapes are programming errors and raise ValueError. Scores that the bootstrap computes
thousands of times take `weight`, the number of times each row counts; weight 2 is the same as the row given twice.
"""

from fusiform.metrics.agreement import ccc as ccc
from fusiform.metrics.agreement import icc31 as icc31
from fusiform.metrics.agreement import pearson as pearson
from fusiform.metrics.classes import accuracy as accuracy
from fusiform.metrics.classes import auc as auc
from fusiform.metrics.classes import balanced_accuracy as balanced_accuracy
from fusiform.metrics.classes import binary_confusions as binary_confusions
from fusiform.metrics.classes import confusion as confusion
from fusiform.metrics.classes import f1_from_confusion as f1_from_confusion
from fusiform.metrics.classes import macro_f1 as macro_f1
from fusiform.metrics.counting import LOWER_IS_BETTER as LOWER_IS_BETTER
from fusiform.metrics.counting import Floats as Floats
from fusiform.metrics.counting import defined_mean as defined_mean
from fusiform.metrics.counting import higher_is_better as higher_is_better
from fusiform.metrics.counting import ratio as ratio
from fusiform.metrics.landmarks import error_auc_fr as error_auc_fr
from fusiform.metrics.landmarks import nme as nme
from fusiform.metrics.pairs import INSIGHTFACE_THRESHOLDS as INSIGHTFACE_THRESHOLDS
from fusiform.metrics.pairs import Operating as Operating
from fusiform.metrics.pairs import eer as eer
from fusiform.metrics.pairs import eer_threshold as eer_threshold
from fusiform.metrics.pairs import hter as hter
from fusiform.metrics.pairs import tar_at_far as tar_at_far
from fusiform.metrics.pairs import tars_at_fars as tars_at_fars
from fusiform.metrics.pairs import verification_accuracy_10fold as verification_accuracy_10fold
from fusiform.metrics.pose import angular_degrees as angular_degrees
from fusiform.metrics.pose import euler_degrees as euler_degrees
from fusiform.metrics.pose import euler_errors_degrees as euler_errors_degrees
from fusiform.metrics.pose import euler_mae_degrees as euler_mae_degrees
from fusiform.metrics.pose import gaze_directions as gaze_directions
from fusiform.metrics.pose import geodesic_degrees as geodesic_degrees
from fusiform.metrics.pose import rotation_matrices as rotation_matrices
from fusiform.metrics.search import Searches as Searches
from fusiform.metrics.search import identification_rate as identification_rate
from fusiform.metrics.search import join as join
from fusiform.metrics.search import open_set_rate as open_set_rate
from fusiform.metrics.search import rank_rate as rank_rate
from fusiform.metrics.search import search as search
from fusiform.metrics.templates import pair_scores as pair_scores
from fusiform.metrics.templates import template_pool as template_pool
