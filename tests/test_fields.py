"""Whole fields of a smear by the commands: cells numbered, measured, doubted; nothing said of nothing."""

import itertools

import numpy as np
import pandas as pd
import pytest
import skimage.data
import tifffile
from PIL import Image
from scipy import ndimage as ndi
from typer.testing import CliRunner

from blood_unet.cells import MELTED
from blood_unet.cli import app
from blood_unet.data import CLASSES, load_cells
from blood_unet.images import background_colour, resize
from blood_unet.phantom import draw_field, draw_phantoms
from blood_unet.preprocessing import make_masks
from blood_unet.segment import ENDINGS, segment_images
from blood_unet.smear import locate
from conftest import MODEL

KINDS = (0, 1, 4, 6, 6)


def command(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def segment(*words):
    return command('segment', *words, '--model', MODEL, '--device', 'cpu')


@pytest.fixture(scope='module')
def field():
    return draw_field(KINDS)


@pytest.fixture
def folder(field, tmp_path):
    (tmp_path / 'in').mkdir()
    Image.fromarray(field[0]).save(tmp_path / 'in' / 'field.png')
    return tmp_path / 'in'


def test_a_field_by_the_command(field, folder, tmp_path):
    done = segment(folder, '--out', tmp_path / 'out')
    assert done.exit_code == 0, done.output
    assert '1 images segmented, 0 failed; 5 white cells' in done.output
    table = pd.read_csv(tmp_path / 'out' / 'cells.csv')
    assert table.cell.tolist() == [1, 2, 3, 4, 5] and table.certain.isin([True, False]).all()
    assert set(table.scale) == {'red cells'}
    nuclei, cells = (tifffile.imread(tmp_path / 'out' / f'field_{kind}.tif') for kind in ('nuclei', 'cells'))
    assert nuclei.dtype == cells.dtype == np.uint16
    whole = {
        kind: np.asarray(Image.open(tmp_path / 'out' / f'field_{kind}.png')) for kind in ('nucleus', 'cell')
    }
    np.testing.assert_array_equal(whole['nucleus'], 255 * (nuclei > 0))
    np.testing.assert_array_equal(whole['cell'], 255 * (cells > 0))
    for row in table.itertuples():
        assert (nuclei == row.cell).sum() == row.nucleus_px
        rows, columns = np.nonzero(cells == row.cell)
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert box == (row.left, row.top, row.right, row.bottom)
    middles = np.array([table.top + table.bottom, table.left + table.right]).T / 2
    for centre in field[1]:  # 6 px: a quarter of a red cell
        assert np.hypot(*(middles - centre).T).min() < 6
    shares = pd.read_csv(tmp_path / 'out' / 'differential.csv')
    white = table[table['class'] != 'platelet']
    assert shares.cells.sum() == len(white) and shares.uncertain.sum() == (~white.certain).sum()
    assert ((shares.low <= shares.share) & (shares.share <= shares.high)).all()


def test_numbered_masks_go_where_one_cell_is_left(field, folder, tmp_path):
    segment(folder, '--out', tmp_path / 'out')
    assert (tmp_path / 'out' / 'field_cells.tif').exists()
    Image.fromarray(draw_field((6,), shape=(200, 200), seed=3)[0]).save(folder / 'field.png')
    assert segment(folder, '--out', tmp_path / 'out').exit_code == 0
    left = {path.name for path in (tmp_path / 'out').iterdir()}
    assert left == {'cells.csv', 'differential.csv', *(f'field{ending}' for ending in ENDINGS[:3])}


@pytest.mark.parametrize('scale', [0.5, 2])
def test_another_magnification_gives_the_same_cells(field, scale):
    image = resize(field[0], tuple(round(scale * n) for n in field[0].shape[:2]))
    first, other = (segment_images(one, MODEL, 'cpu').table for one in (field[0], image))
    assert len(other) == len(first)
    # a ruler is read from some 60 drawn red cells of equal size: within 5 %
    assert other.um_per_pixel[0] * scale == pytest.approx(first.um_per_pixel[0], rel=0.05)
    place = lambda t, k: np.array([t.top + t.bottom, t.left + t.right], float).T / 2 / k  # noqa: E731
    near = [int(np.hypot(*(place(other, scale) - one).T).argmin()) for one in place(first, 1)]
    assert sorted(near) == list(range(len(first)))
    areas = [(t.nucleus_px.astype(float) * t.um_per_pixel**2).to_numpy() for t in (first, other)]
    assert np.abs(areas[1][near] / areas[0] - 1).max() < 0.2  # of a nucleus of 12 px across, a pixel is 16 %


def test_a_scale_that_is_given_is_used_and_said(folder, tmp_path):
    assert segment(folder, '--out', tmp_path / 'out', '--um-per-pixel', 0.3).exit_code == 0
    table = pd.read_csv(tmp_path / 'out' / 'cells.csv')
    assert set(table.um_per_pixel) == {0.3} and set(table.scale) == {'given'}


def test_a_narrower_question(folder, tmp_path):
    five = 'neutrophil,eosinophil,basophil,lymphocyte,monocyte'
    for words, out in ((five, 'a'), ('five-part', 'b')):
        assert segment(folder, '--out', tmp_path / out, '--classes', words).exit_code == 0
    table = pd.read_csv(tmp_path / 'a' / 'cells.csv')
    assert set(table['class']) <= set(five.split(','))
    assert (table[['p_erythroblast', 'p_immature_granulocyte', 'p_platelet']] == 0).all(axis=None)
    np.testing.assert_allclose(
        table.filter(like='p_').drop(columns='anomaly_p', errors='ignore').sum(axis=1), 1, atol=1e-4
    )
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / 'b' / 'cells.csv'))
    assert set(pd.read_csv(tmp_path / 'a' / 'differential.csv')['class']) == set(five.split(','))


@pytest.mark.parametrize(
    'words, said',
    [
        (('--um-per-pixel', '0'), 'got um_per_pixel=0.0; expected 0.0075 to 2.5 um'),
        (('--um-per-pixel', 'nan'), 'got um_per_pixel=nan'),
        (('--classes', 'neutrophil,neutrofile'), "got classes 'neutrofile'; expected some of basophil"),
        (('--classes', ''), 'got classes'),
    ],
)
def test_what_cannot_be_asked_is_refused_and_nothing_written(folder, tmp_path, words, said):
    done = segment(folder, '--out', tmp_path / 'out', *words)
    assert done.exit_code == 1 and said in str(done.exception), done.exception
    assert not (tmp_path / 'out').exists()


def test_a_file_of_that_name_that_is_no_count_is_left_alone(folder, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'differential.csv').write_text('my,own\n1,2\n')
    done = segment(folder, '--out', tmp_path / 'out')
    assert 'which is there and no count of cells' in str(done.exception)
    assert [path.read_text() for path in (tmp_path / 'out').iterdir()] == ['my,own\n1,2\n']


def texture(seed=0):
    "Colours without a cell: noise of several grains, as a photograph or a tissue section has it."
    rng = np.random.default_rng(seed)
    layers = [resize(rng.integers(0, 255, (k, k, 3), np.uint8), (300, 300)) for k in (5, 20, 80)]
    return np.mean(layers, axis=0).astype(np.uint8)


NOTHING = {
    'empty slide': lambda: np.full((240, 320, 3), (250, 228, 204), np.uint8),
    'red cells alone': lambda: draw_field((), seed=4)[0],
    'dark field': lambda: 255 - draw_field(KINDS, seed=1)[0],
    'gray': lambda: np.repeat(draw_field(KINDS, seed=1)[0].mean(2, keepdims=True), 3, 2).astype(np.uint8),
    'channels swapped': lambda: np.ascontiguousarray(draw_field(KINDS, seed=1)[0][..., ::-1]),
    'a texture': texture,
    'black': lambda: np.zeros((240, 320, 3), np.uint8),
    'noise': lambda: np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8),
}


@pytest.mark.parametrize('what', NOTHING)
def test_of_what_is_no_stained_smear_no_white_cell_is_certain(what):
    table = segment_images(NOTHING[what](), 'auto', 'cpu').table
    white = table['class'].notna() & table['class'].ne('platelet')
    assert not table.certain[white].any(), table[['class', 'warning']].to_dict()
    assert (table.warning != '').all()
    if what in ('empty slide', 'red cells alone', 'black'):
        assert table['class'].tolist() == [np.nan] or table['class'].isna().all()
        assert table[['left', 'top', 'right', 'bottom']].isna().all(axis=None)


PHOTOGRAPHS = (
    'chelsea',
    'immunohistochemistry',
    'retina',
    'coffee',
)  # a cat, a stained section, an eye, a cup


@pytest.mark.parametrize('width', [None, 400, 1000])
@pytest.mark.parametrize('name', PHOTOGRAPHS)
def test_of_a_photograph_no_white_cell_is_certain(name, width):
    """Pictures that lie in scikit-image itself, at their own size and scaled to a width in px."""
    image = np.ascontiguousarray(getattr(skimage.data, name)()[..., :3])
    if width:
        image = resize(image, (round(width * image.shape[0] / image.shape[1]), width))
    table = segment_images(image, 'auto', 'cpu').table
    white = table['class'].notna() & table['class'].ne('platelet')
    assert not table.certain[white].any(), table[white][['class', 'warning']].to_dict()
    assert (table.warning != '').all()


def heap(pictures, masks, seed, near=0.3, shape=(400, 520), red_cells=None):
    """A field with white cells in one heap, each `near` sides of its square from another: uint8 (H, W, 3).

    `pictures`: uint8 (n, s, s, 3), one cell each on BloodMNIST's square; `masks`: bool (n, s, s), the cells;
    `red_cells`: so many around it, up to four; None: as many as a field has.
    """
    rng, side, slide = np.random.default_rng(seed), pictures.shape[1], np.array([252, 228, 204.0])
    places = [np.array(shape) / 2]
    while len(places) < len(pictures):
        turn = rng.uniform(0, 2 * np.pi)
        place = places[rng.integers(len(places))] + near * side * np.array([np.sin(turn), np.cos(turn)])
        if min(np.hypot(*(place - one)) for one in places) > 0.95 * near * side:
            places.append(place)
    field, (y, x) = draw_field((), red=24, shape=shape, seed=seed)[0].astype(float), np.indices(shape)
    if red_cells is not None:
        field[:] = slide
        for top, left in list(itertools.product((24, shape[0] - 24), (24, shape[1] - 24)))[:red_cells]:
            field[np.hypot(y - top, x - left) < 12] = [206, 168, 168]
    field[np.min([np.hypot(y - one[0], x - one[1]) for one in places], axis=0) < side / 2] = slide
    for picture, mask, place in zip(pictures, masks, places):
        top, left = (int(k - side / 2) for k in place)
        here = field[top : top + side, left : left + side]
        own = background_colour(picture.astype(np.float32)).ravel()
        here += ((picture * (slide / own)).clip(0, 255) - here) * mask[..., None]
    return field.clip(0, 255).astype(np.uint8)


def check_heap(field):
    table = segment_images(field, 'auto', 'cpu').table
    white = table[table['class'].notna() & table['class'].ne('platelet')]
    assert 0 < len(white) < 8, 'eight cells that cannot be parted'
    assert not white.certain.any(), white[['class', 'warning']].to_dict()
    assert white.warning.ne('').all()
    assert table.um_per_pixel[0] == pytest.approx(7.5 / 24, rel=0.05)  # the red cells around stay the ruler


@pytest.mark.parametrize('seed', [0, 1, 2, 3])
def test_of_eight_white_cells_in_a_heap_none_is_certain(seed):
    drawn = draw_phantoms(120, 64, seed)
    kinds = (6, 4, 1, 5, 6, 3, 4, 0)
    picked = [int(np.flatnonzero(drawn.labels == kind)[i]) for i, kind in enumerate(kinds)]
    check_heap(heap(drawn.images[picked], drawn.cell[picked], seed))


@pytest.mark.parametrize('near', [0.3, 0.4])
def test_of_eight_neutrophils_in_a_heap_none_is_certain(near):
    "Two of these were: the search had not seen that they touch, their outlines meet."
    drawn = draw_phantoms(120, 64, 101)
    picked = np.random.default_rng(1).choice(np.flatnonzero(drawn.labels == 6), 8, replace=False)
    check_heap(heap(drawn.images[picked], drawn.cell[picked], 1, near))


@pytest.mark.bloodmnist
@pytest.mark.parametrize('seed', [0, 1, 2, 3])
@pytest.mark.parametrize('near', [0.3, 0.4])
def test_of_eight_real_white_cells_in_a_heap_none_is_certain(seed, near):
    cells = load_cells('bloodmnist', 'test', 64)
    white = np.flatnonzero(cells.labels != CLASSES.index('platelet'))
    pictures = cells.images[np.random.default_rng(seed).choice(white, 8, replace=False)]
    check_heap(heap(pictures, np.array([make_masks(one, 'cell') for one in pictures]), seed, near))


def among_specks(picture, mask, speck=17, side=150):
    """One white cell on an empty slide between three bodies like red cells, but small: uint8 (side, side, 3).

    `picture`: uint8 (64, 64, 3); `mask`: bool (64, 64), its cell; both are shown 110 px wide.
    """
    field = np.full((side, side, 3), [252, 228, 204.0])
    picture, mask = resize(picture, (110, 110)), resize(mask, (110, 110))
    field[20:130, 20:130][mask] = picture[mask]
    y, x = np.mgrid[:side, :side]
    for top, left in ((14, 14), (136, 30), (18, 134)):
        field[np.hypot(y - top, x - left) < speck / 2] = [188, 150, 175]
    return ndi.gaussian_filter(field, (0.8, 0.8, 0)).astype(np.uint8)


def test_lobes_stay_one_cell_beside_three_small_bodies():
    """By such a ruler a neutrophil is as wide as four red cells, and its lobes are cells that touch."""
    drawn, parted = draw_phantoms(160, 64, 5), 0
    for k in np.flatnonzero(drawn.labels == CLASSES.index('neutrophil'))[:12]:
        picture = among_specks(drawn.images[k], drawn.cell[k])
        found = segment_images(picture, 'auto', 'cpu')
        assert [one.kind for one in found.pictures[0].cells] == ['white cell'], k
        if len(locate(picture).white) > 1:
            parted += 1
            ruler = found.pictures[0].located.ruler
            assert (ruler.found, len(ruler.diameters)) == ('nuclei', 3)
            assert not found.table.certain[0] and MELTED in found.table.warning[0]
    assert parted >= 4, 'pictures in which the lobes are cells to the search'


def test_a_heap_that_is_taken_for_one_cell_is_not_certain():
    """Four white cells beside three red ones look as lobes beside specks do."""
    melted = 0
    for seed, near in ((9, 0.25), (5, 0.3), (7, 0.35), (3, 0.3)):
        drawn = draw_phantoms(60, 64, seed)
        white = np.flatnonzero(drawn.labels != CLASSES.index('platelet'))
        picked = np.random.default_rng(seed).choice(white, 4, replace=False)
        field = heap(drawn.images[picked], drawn.cell[picked], seed, near, (260, 300), red_cells=3)
        found = segment_images(field, 'auto', 'cpu')
        if MELTED in found.table.warning[0]:
            melted += 1
            assert not found.table.certain.any(), found.table[['class', 'warning']].to_dict()
    assert melted >= 2, 'heaps that are wider than three red cells'


def test_explain_takes_a_cell_of_a_field(folder, tmp_path):
    words = ('explain', folder, '--out', tmp_path / 'why', '--method', 'parts', '--target', 'class')
    assert command(*words, '--cell', 2, '--model', MODEL).exit_code == 0
    assert command(*words, '--model', MODEL).exit_code == 0  # the first stands beside it
    table = pd.read_csv(tmp_path / 'why' / 'explanations.csv')
    assert set(table.cell) == {1, 2} and set(table['map']) == {'field_class_parts', 'field_cell2_class_parts'}
    assert np.load(tmp_path / 'why' / 'field_cell2_class_parts.npy').shape == (400, 520)
    beyond = command(*words, '--cell', 6, '--model', MODEL)
    assert beyond.exit_code == 1 and 'got cell 6 of a picture with 5 cells' in beyond.output


def test_a_field_alone_as_among_others(field):
    both = segment_images([draw_field((1, 2), seed=5)[0], field[0]], MODEL, 'cpu').table
    alone = segment_images(field[0], MODEL, 'cpu').table
    rows = both[both.image == 1].drop(columns='image').reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, alone.drop(columns='image'))
    assert set(both['class'].dropna()) <= set(CLASSES)
