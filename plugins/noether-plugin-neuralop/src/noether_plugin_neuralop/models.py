"""The models of neuraloperator that have a short kind; their options are those of the constructors."""

from neuralop.models import FNO, TFNO, UNO

__all__ = ["FNO", "TFNO", "UNO"]
