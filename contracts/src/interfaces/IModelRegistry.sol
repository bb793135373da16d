// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Cid } from "./Types.sol";

/// @title Append-only lineage of models. No tokens, no administrator.
/// @notice A version exists only if the coordinator had it as a final result: `register` pulls, nobody pushes.
interface IModelRegistry {
    /// @notice One version of a model. `updatesHash` binds every update of the round with its weight and score; the
    /// updates themselves are in the coordinator's events between the two blocks.
    struct Model {
        bytes32 parent;
        uint256 taskId;
        uint16 round;
        uint8 attempt;
        uint16 accepted;
        uint40 openedBlock;
        uint40 registeredBlock;
        uint40 registeredAt;
        address aggregator;
        bytes32 modelRoot;
        bytes32 updatesHash;
        Cid cid;
        Cid floatCid;
    }

    /// @notice What all versions of a task share.
    struct Line {
        address owner;
        bool restricted;
        uint16 versions;
        bytes32 specHash;
        bytes32 genesis;
        bytes32 latest;
        string licence;
    }

    event LineOpened(uint256 indexed taskId, address indexed owner, bytes32 specHash, bytes32 parent, string licence);
    event ModelRegistered(
        bytes32 indexed modelId, uint256 indexed taskId, bytes32 indexed parent, uint16 round, Model model
    );
    event OwnershipTransferred(uint256 indexed taskId, address indexed from, address indexed to);
    event AccessRestricted(uint256 indexed taskId, bool restricted);
    event AccessGranted(uint256 indexed taskId, address indexed account);
    event AccessRevoked(uint256 indexed taskId, address indexed account);

    error UnknownModel(bytes32 modelId);
    error AlreadyRegistered(bytes32 modelId);
    error NotOwner(uint256 taskId, address caller);
    error InvalidOwner(uint256 taskId, address to);
    error WrongWiring(address coordinator);

    /// @notice Pulls the coordinator's current result of a task and appends it. Anybody may call; it reverts unless
    /// the coordinator has a result, which is the case only while the coordinator itself makes the call.
    function register(uint256 taskId) external returns (bytes32 modelId);

    /// @notice Access is a SIGNAL about what the owner permits. The bytes of every model are public to whoever has the CID.
    function setRestricted(uint256 taskId, bool restricted) external;
    function grantAccess(uint256 taskId, address account) external;
    function revokeAccess(uint256 taskId, address account) external;
    function transferOwnership(uint256 taskId, address to) external;

    /// @notice True when the line is public, or the account its owner, or granted.
    function hasAccess(bytes32 modelId, address account) external view returns (bool);

    function coordinator() external view returns (address);
    function version() external view returns (string memory);
    function modelIdOf(uint256 taskId, uint16 round) external view returns (bytes32);
    function modelOf(bytes32 modelId) external view returns (Model memory);
    function lineOf(uint256 taskId) external view returns (Line memory);
    function exists(bytes32 modelId) external view returns (bool);
    function isGranted(uint256 taskId, address account) external view returns (bool);
    function numModels() external view returns (uint256);
    /// @notice The ids from `start` on, oldest first, at most `count`.
    function models(uint256 start, uint256 count) external view returns (bytes32[] memory);
}
