"""Stage two: train the student from images and stored teacher features, without SAM."""
