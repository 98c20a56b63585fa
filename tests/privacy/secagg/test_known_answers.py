"""Known answers for every primitive that the protocol relies on, through the functions that the protocol calls."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from yoriai.errors import IdentityError, ProtocolError
from yoriai.privacy.identity.signing_key import SigningKey, verify
from yoriai.privacy.secagg.masks import RandomBits, Scratch, agree, derive
from yoriai.privacy.secagg.secret import SecretBytes

_hex = bytes.fromhex


def test_x25519_agrees_as_in_rfc_7748_section_6_1() -> None:
    alice = X25519PrivateKey.from_private_bytes(
        _hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    )
    bob = X25519PrivateKey.from_private_bytes(_hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    alice_public = _hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    bob_public = _hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = _hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert agree(alice, bob_public).reveal() == agree(bob, alice_public).reveal() == shared


@pytest.mark.parametrize("point", ["00" * 32, "01" + "00" * 31, "ecffffff" + "ff" * 27 + "7f"])
def test_x25519_points_of_small_order_are_refused(point: str) -> None:
    # RFC 7748 section 6.1: an all-zero output must be detected; these points give one for every private key.
    with pytest.raises(ProtocolError):
        agree(X25519PrivateKey.from_private_bytes(bytes(range(32))), _hex(point))


def test_ed25519_signs_as_in_rfc_8032_section_7_1_test_1() -> None:
    key = SigningKey(
        Ed25519PrivateKey.from_private_bytes(_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    )
    expected = _hex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b"
    )
    assert key.public_key.public_bytes_raw().hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.for_x509().sign(b"") == expected


def test_a_signature_is_ed25519_over_domain_zero_byte_and_message() -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    assert key.sign(b"domain", b"message") == key.for_x509().sign(b"domain\0message")
    with pytest.raises(IdentityError):
        verify(key.public_key, b"other", b"message", key.sign(b"domain", b"message"))


def test_hkdf_derives_as_in_rfc_5869_case_3() -> None:
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert derive(SecretBytes(b"\x0b" * 22), b"", 42).reveal().hex() == okm


def test_mask_generator_is_aes_256_ctr_of_sp_800_38a_f_5_5() -> None:
    key = SecretBytes(_hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"))
    plain = _hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    cipher = _hex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5")
    keystream = bytes(a ^ b for a, b in zip(plain, cipher, strict=True))
    # Word index 4 * counter: the stream's position stands for the counter of the vector.
    first = 4 * int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    assert RandomBits(key).block(first, Scratch(32), 8).tobytes() == keystream


def test_mask_generator_is_aes_256_ctr_of_rfc_3686_vector_9() -> None:
    # Test vector 9: AES-256, counter block = nonce 0x1CC5B751..., IV, counter 1; 36 bytes, here the whole words of it.
    key = SecretBytes(_hex("ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d"))
    counter = _hex("001cc5b751a51d70a1c1114800000001")
    plain = bytes(range(32))
    cipher = _hex("eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f")
    words = RandomBits(key).block(4 * int.from_bytes(counter, "big"), Scratch(32), 8)
    assert words.tobytes() == bytes(a ^ b for a, b in zip(plain, cipher, strict=True))


def test_keystream_words_are_little_endian() -> None:
    words = RandomBits(SecretBytes(bytes(32))).block(0, Scratch(16), 4)
    # FIPS 197: AES-256 of the zero block under the zero key is dc95c078 a2408989 ad48a214 92842087.
    assert words.astype(np.uint32).tolist() == [0x78C095DC, 0x898940A2, 0x14A248AD, 0x87208492]


def test_aead_seals_as_in_rfc_8439_section_2_8_2() -> None:
    plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    plain += b"sunscreen would be it."
    sealed = ChaCha20Poly1305(bytes(range(0x80, 0xA0))).encrypt(
        _hex("070000004041424344454647"), plain, _hex("50515253c0c1c2c3c4c5c6c7")
    )
    assert sealed.hex() == (
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )
