import time, logging
import pytest
from mixalign.models.load import Pretrained
from mixalign.models.tiny import TinyLlama, byte_tokenizer
from mixalign.errors import MixalignError
SMALL = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
def test_x(hub, tmp_path, caplog, monkeypatch):
    SMALL.build().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    hub.answers["org/name"] = tmp_path / "model"
    s = Pretrained("org/name")
    t=time.time(); s.build(); s.tokenizer(); print(time.time()-t)
    print("\n".join(hub.asked))
    import os; os.system(f"find {tmp_path}")
    hub.close(); n=len(hub.asked)
    t=time.time(); s.build(); s.tokenizer(); print(time.time()-t, caplog.text)
    with pytest.raises(MixalignError) as e: Pretrained("org/other").tokenizer()
    print(e.value)
