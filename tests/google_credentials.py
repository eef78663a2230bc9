"""Google's credentials for tests: an account whose access tokens the emulator gives out."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@cache
def private_key() -> str:
    """A key that signs for an account that does not exist."""
    key = rsa.generate_private_key(65_537, 2_048)
    kind, encryption = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, kind, encryption).decode()


def service_account(url: str, folder: Path) -> Path:
    """Write the file of a service account whose token server is at a URL; GOOGLE_APPLICATION_CREDENTIALS names it."""
    account = {
        "type": "service_account",
        "project_id": "another-project",
        "private_key_id": "1",
        "private_key": private_key(),
        "client_email": "tests@project.iam.gserviceaccount.com",
        "token_uri": f"{url}/token",
    }
    path = folder / "account.json"
    path.write_text(json.dumps(account))
    return path


def workload_identity(url: str, folder: Path) -> Path:
    """Write the file of an identity that another provider vouches for, as in Kubernetes."""
    (folder / "subject").write_text("signed-by-the-cluster")
    identity = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/locations/global/workforcePools/pool/providers/provider",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{url}/token",
        "credential_source": {"file": str(folder / "subject")},
    }
    path = folder / "identity.json"
    path.write_text(json.dumps(identity))
    return path
