"A small training that a test starts in a process of its own, to be killed."
import torch

from blood_unet.core import sha256_arrays
from blood_unet.data import phantom
from blood_unet.model import BloodUNet
from blood_unet.training import Training, fit


def train(folder, result, started=None):
    "Train in `folder`, from its state if there is one, and put the SHA-256 of the final weights on the queue `result`."
    torch.set_num_threads(1)
    cells = phantom(48, size=28, seed=0)
    torch.manual_seed(0)
    model = BloodUNet(widths=(4, 8, 16), input_size=28)
    if started is not None: started.set()
    fit(model, cells, cells.subset(range(16)), Training(epochs=12, batch_size=16, seed=1), folder, device='cpu', progress=False)
    result.put(sha256_arrays(*(t.numpy() for t in model.state_dict().values())))
