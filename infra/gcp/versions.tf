terraform {
  required_version = ">= 1.5"

  required_providers {
    archive     = { source = "hashicorp/archive", version = ">= 2.5" }
    google      = { source = "hashicorp/google", version = ">= 6.0" }
    google-beta = { source = "hashicorp/google-beta", version = ">= 6.0" }
  }
}
